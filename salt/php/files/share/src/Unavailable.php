<?php

declare(strict_types=1);

namespace Webfarm;

/** The answer 503, or 425: nothing was processed, ask elsewhere. */
final class Unavailable
{
    /** End the request; what was answered so far, and its cookies, are dropped where that is possible. */
    public static function answer(string $text, int $status = 503): never
    {
        if (!headers_sent()) {
            while (ob_get_level() > 0 && @ob_end_clean()) {
            }
            $keep = preg_grep('/^X-Webfarm-/i', headers_list());
            header_remove();
            array_map(header(...), $keep);
            http_response_code($status);
            header('Retry-After: 1');
            header('Content-Type: text/plain');
            echo $text, "\n";
        }
        exit;
    }
}
