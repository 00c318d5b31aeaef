<?php
// A session too large for the cache.
session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
$_SESSION['big'] = str_repeat('x', 2_000_000);
echo json_encode(['count' => $_SESSION['count']]);
