<?php
// Ends the session long before the answer.
session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
session_write_close();
echo json_encode(['count' => $_SESSION['count']]);
