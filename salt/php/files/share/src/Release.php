<?php

declare(strict_types=1);

namespace Webfarm;

/** What this server runs: the live PHP and the webapp behind the symlink, and the pair's name. */
final class Release
{
    private function __construct(
        public readonly string $name,
        public readonly string $php,
        public readonly string $webapp,
    ) {
    }

    /**
     * @param string $root the webapp's `public` folder with all symlinks resolved
     * @param string $table the file that names the pairs: ['8.2.36+2' => '2026.11.2', …]
     */
    public static function own(string $root, string $table): self
    {
        $webapp = basename(dirname($root));
        $pair = PHP_VERSION . '+' . $webapp;
        $names = is_file($table) ? require $table : [];
        return new self($names[$pair] ?? "unknown:$pair", PHP_VERSION, $webapp);
    }

    /** Natural order, digits as numbers: 2026.11.10 is newer than 2026.11.9. */
    public function isOlderThan(string $other): bool
    {
        return strnatcmp($this->name, $other) < 0;
    }
}
