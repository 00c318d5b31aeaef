<?php
// As after a login: the session goes on under a new id, the old one is gone.
session_start();
session_regenerate_id(true);
echo json_encode(['session' => session_id(), 'count' => $_SESSION['count'] ?? null]);
