<?php
// Uses no session.
echo '{}';
