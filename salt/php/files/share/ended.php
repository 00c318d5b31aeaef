<?php

declare(strict_types=1);

// Runs when php-fpm has ended, however it did (ExecStopPost). It tells the farm's caches which php-fpm
// that was: who waits for the lock of a session that was in its hands need not wait until it expires.

const LOCK_SECONDS = 120; // more than a lock lasts
const MEMBER_SECONDS = 0.1;
const ALL_SECONDS = 1.0; // php-fpm does not start again before we are done

$folder = getenv('WEBFARM_CONFIGURATION') ?: '/etc/webfarm';
$here = require "$folder/session.php";
$ended = (string) getenv('INVOCATION_ID');
if (preg_match('/^[0-9a-f]{32}$/D', $ended) !== 1) {
    fwrite(STDERR, "INVOCATION_ID is not one of systemd's: '$ended'\n");
    exit(1);
}
$deadline = microtime(true) + ALL_SECONDS;
foreach ($here['caches'][$here['farm']] ?? [] as $member) {
    $link = microtime(true) < $deadline
        ? @stream_socket_client("tcp://$member", $code, $why, MEMBER_SECONDS)
        : false;
    if ($link === false) {
        fwrite(STDERR, "session cache $member was not told\n"); // its locks end by themselves
        continue;
    }
    stream_set_timeout($link, 0, (int) (MEMBER_SECONDS * 1e6));
    fwrite($link, sprintf("set ended:%s 0 %d 1\r\n1\r\n", $ended, LOCK_SECONDS));
    fgets($link);
    fclose($link);
}
