<?php

declare(strict_types=1);

// Runs before memcached stops as planned (ExecStop). A session's lock is lost with the member, so:
// 1. `young` tells who comes from now on that this member's lock is not enough (SessionCache::look), and
//    they have the database's as well;
// 2. who came before is waited for: usually a moment, at most until the last such lock would end by itself.
// Whatever goes wrong here, memcached stops.
// Argument: ADDRESS:PORT.

const WAIT_SECONDS = 70.0; // longer than a lock lasts
const YOUNG_SECONDS = 300; // longer than until memcached has stopped; were it not to stop, all is well again
const ANSWER_SECONDS = 2;
const PAUSE_MICROSECONDS = 50_000;
const BATCH = 50;

/** Say why, and let memcached stop. */
function give_up(string $why): never
{
    fwrite(STDERR, "sessions at work are not waited for: $why\n");
    exit(1);
}

/**
 * What memcached answers, up to and with the line that ends an answer.
 *
 * @return list<string> lines
 */
function ask($link, string $command): array
{
    fwrite($link, "$command\r\n");
    $lines = [];
    do {
        $line = fgets($link);
        if ($line === false) {
            give_up('memcached does not answer');
        }
        $lines[] = rtrim($line, "\r\n");
    } while (preg_match('/^(END|STORED|NOT_STORED|ERROR.*|\w+_ERROR.*|BUSY.*)\r\n$/D', $line) !== 1);
    return $lines;
}

/**
 * @param list<string> $keys
 * @return array<string, string> of those that are there; no key's or token's text looks like a reply's
 */
function values($link, array $keys): array
{
    $found = [];
    foreach (array_chunk($keys, BATCH) as $some) {
        $lines = ask($link, 'get ' . implode(' ', $some));
        for ($at = 0; $at + 1 < count($lines); $at += 2) {
            $found[explode(' ', $lines[$at])[1]] = $lines[$at + 1];
        }
    }
    return $found;
}

/** @return array<string, string> who has which lock: by key the token of its holder */
function locks($link, float $deadline): array
{
    // by the hash table: the usual way may miss what is used meanwhile
    while (str_starts_with(($lines = ask($link, 'lru_crawler metadump hash'))[0], 'BUSY')) {
        if (microtime(true) > $deadline) {
            give_up('memcached lists nothing');
        }
        usleep(PAUSE_MICROSECONDS);
    }
    if (end($lines) !== 'END') {
        give_up("memcached lists nothing: $lines[0]");
    }
    $keys = [];
    foreach ($lines as $line) {
        if (preg_match('/^key=(lock%3A[A-Za-z0-9%-]+) /', $line, $key) === 1) {
            $keys[] = rawurldecode($key[1]);
        }
    }
    return values($link, $keys);
}

/**
 * Those whose php-fpm has not ended, as `ended.php` told.
 *
 * @param array<string, string> $locks
 * @return array<string, string>
 */
function alive($link, array $locks): array
{
    $ended = static fn (string $token): string => 'ended:' . preg_replace('/[^0-9a-f].*/s', '', $token);
    $gone = values($link, array_values(array_unique(array_map($ended, $locks))));
    return array_filter($locks, static fn (string $token): bool => !isset($gone[$ended($token)]));
}

$deadline = microtime(true) + WAIT_SECONDS;
$member = $argv[1] ?? '';
$link = @stream_socket_client("tcp://$member", $code, $why, ANSWER_SECONDS);
if ($link === false) {
    give_up("$member: $why");
}
stream_set_timeout($link, ANSWER_SECONDS);
if (ask($link, sprintf("set young 0 %d 8\r\nretiring", YOUNG_SECONDS)) !== ['STORED']) {
    give_up('memcached stores nothing');
}
$before = locks($link, $deadline);
while ($before = alive($link, array_intersect_assoc($before, values($link, array_keys($before))))) {
    if (microtime(true) > $deadline) {
        give_up(count($before) . ' of them after ' . WAIT_SECONDS . ' s');
    }
    usleep(PAUSE_MICROSECONDS);
}
