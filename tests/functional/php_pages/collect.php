<?php
session_start();
echo json_encode(['deleted' => session_gc()]);
