<?php
// Counts, and keeps its session until the test makes the file `let-go` beside this page.
session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
for ($end = time() + 60; !file_exists(__DIR__ . '/let-go') && time() < $end;) {
    usleep(10_000);
    clearstatcache();
}
echo json_encode(['count' => $_SESSION['count']]);
