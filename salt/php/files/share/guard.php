<?php

declare(strict_types=1);

// Runs before every script (auto_prepend_file). A request that the balancer meant for another release
// is answered 425, untouched, and the balancer sends it elsewhere; the others get their session from
// Webfarm\SessionHandler and their answers say who answered.

spl_autoload_register(static function (string $class): void {
    if (preg_match('/^Webfarm\\\\(\w+)$/D', $class, $name) === 1) {
        include __DIR__ . "/src/$name[1].php";
    }
});

(static function (): void {
    $folder = $_SERVER['WEBFARM_CONFIGURATION'] ?? '/etc/webfarm';
    $release = Webfarm\Release::own($_SERVER['DOCUMENT_ROOT'] ?? '', "$folder/releases.php");

    $expected = $_SERVER['HTTP_X_WEBFARM_RELEASE'] ?? null;
    $local = $expected === null
        && in_array($_SERVER['WEBFARM_PEER'] ?? '', ['loopback', 'master'], true);
    if ($expected !== $release->name && !$local) {
        http_response_code(425);
        header("X-Webfarm-Fence: $release->name");
        exit;
    }

    $here = @include "$folder/session.php";
    if (!is_array($here)) {
        error_log("webfarm: $folder/session.php cannot be read");
        Webfarm\Unavailable::answer('This server is not configured.');
    }
    header("X-Webfarm-Release: $release->name");
    header("X-Webfarm-Farm: {$here['farm']}");
    header("X-Webfarm-Server: {$here['server']}");
    $_SERVER['WEBFARM_RELEASE'] = $release->name;
    $_SERVER['WEBFARM_SITE'] = $here['site'];
    $_SERVER['WEBFARM_FARM'] = $here['farm'];
    $_SERVER['WEBFARM_SERVER'] = $here['server'];
    if ($here['database'] === null) {
        return;
    }

    $moved = ($_SERVER['HTTP_X_WEBFARM_MOVED'] ?? '') === '1';
    if ($moved) {
        // until the handler has had the session: a page without one must not use the mark up
        header('X-Webfarm-Uncached: 1');
    }
    session_set_save_handler(
        new Webfarm\SessionHandler(
            $here['farm'],
            $here['caches'],
            new Webfarm\SessionDatabase($here['database']),
            $release,
            $moved,
        ),
        true,
    );
})();
