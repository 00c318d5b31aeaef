<?php
// Closes the session and opens it again, as pages do that work long in between.
session_start();
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
session_write_close();
session_start();
$_SESSION['count']++;
echo json_encode(['session' => session_id(), 'count' => $_SESSION['count']]);
