<?php
echo json_encode(['address' => $_SERVER['REMOTE_ADDR'], 'https' => $_SERVER['HTTPS'] ?? '']);
