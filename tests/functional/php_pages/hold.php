<?php
// Counts, and keeps its session until the test makes the file `let-go` beside this page, or, for `?as=b`,
// the file `let-go-b`.
session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
$file = __DIR__ . '/let-go' . (isset($_GET['as']) ? '-' . basename($_GET['as']) : '');
for ($end = time() + 60; !file_exists($file) && time() < $end;) {
    usleep(10_000);
    clearstatcache();
}
echo json_encode(['count' => $_SESSION['count']]);
