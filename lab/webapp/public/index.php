<?php

declare(strict_types=1);

// A webapp with an ordinary PHP session: it counts its answers, and says who answered.

// The folder of a version has its name; symlinks are resolved here.
define('WEBAPP', basename(dirname(__DIR__)));

/** A whole number of milliseconds from the query, or the answer 400. */
function milliseconds(string $name): int
{
    $value = $_GET[$name] ?? '0';
    if (!is_string($value) || preg_match('/^\d{1,5}$/', $value) !== 1) {
        answer(400, ['error' => "$name must be a whole number of milliseconds, 0 to 99999"]);
    }
    return (int) $value;
}

/** CPU time that this process has used, in microseconds. */
function cpu(): int
{
    $used = getrusage();
    return ($used['ru_utime.tv_sec'] + $used['ru_stime.tv_sec']) * 1_000_000
        + $used['ru_utime.tv_usec'] + $used['ru_stime.tv_usec'];
}

function answer(int $status, array $body): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    header('Cache-Control: no-store');
    echo json_encode($body, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES), "\n";
    exit;
}

if (!in_array($_SERVER['REQUEST_METHOD'], ['GET', 'HEAD', 'POST'], true)) {
    header('Allow: GET, HEAD, POST');
    answer(405, ['error' => 'only GET, HEAD and POST']);
}
$sleep = milliseconds('ms');
$burn = milliseconds('burn');

session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;

usleep($sleep * 1000);
for ($end = cpu() + $burn * 1000; cpu() < $end;) {
    hash('sha256', str_repeat('burn', 256));
}

$body = [
    'session' => session_id(),
    'count' => $_SESSION['count'],
    'release' => $_SERVER['WEBFARM_RELEASE'] ?? null,
    'php' => PHP_VERSION,
    'webapp' => WEBAPP,
    'site' => $_SERVER['WEBFARM_SITE'] ?? null,
    'farm' => $_SERVER['WEBFARM_FARM'] ?? null,
    'server' => $_SERVER['WEBFARM_SERVER'] ?? null,
];
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $body['received'] = strlen(file_get_contents('php://input'));
}
answer(200, $body);
