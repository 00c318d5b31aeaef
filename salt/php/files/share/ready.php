<?php

declare(strict_types=1);

// /ready, in a pool of its own: does this server run, right now, the release that the balancer expects?

require_once __DIR__ . '/src/Release.php';

(static function (): void {
    $folder = $_SERVER['WEBFARM_CONFIGURATION'] ?? '/etc/webfarm';
    $root = $_SERVER['DOCUMENT_ROOT'] ?? '';
    $release = Webfarm\Release::own($root, "$folder/releases.php");
    $expected = $_SERVER['HTTP_X_WEBFARM_RELEASE'] ?? null;
    $here = @include "$folder/session.php";
    $why = match (true) {
        !is_file("$root/index.php") => 'the webapp has no public/index.php',
        !is_array($here) => "$folder/session.php cannot be read",
        !extension_loaded('memcached') => 'PHP has no extension memcached',
        !extension_loaded('mysqli') => 'PHP has no extension mysqli',
        $expected === null => 'no X-Webfarm-Release in the request',
        $expected !== $release->name => "expected is $expected",
        default => '',
    };
    http_response_code($why === '' ? 200 : 503);
    header('Content-Type: application/json');
    header("X-Webfarm-Release: $release->name");
    echo json_encode([
        'release' => $release->name,
        'php' => $release->php,
        'webapp' => $release->webapp,
        'ready' => $why === '',
        'why' => $why,
    ], JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
})();
