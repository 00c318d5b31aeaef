<?php
// Reads the session and changes nothing.
session_start();
echo json_encode(['session' => session_id(), 'count' => $_SESSION['count'] ?? null]);
