<?php
// Takes `ms` milliseconds and answers `status`; uses no session.
usleep((int) ($_GET['ms'] ?? 0) * 1000);
http_response_code((int) ($_GET['status'] ?? 200));
echo '{}';
