<?php
// Changes the session, and then wants none of it.
session_start();
$_SESSION['count'] = 1000;
session_abort();
echo '{}';
