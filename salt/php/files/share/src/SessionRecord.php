<?php

declare(strict_types=1);

namespace Webfarm;

/** A session as it is stored, in the database and in the cache alike. */
final class SessionRecord
{
    public function __construct(
        /** one more at each write */
        public readonly int $version,
        /** that wrote it */
        public readonly string $release,
        /** whose server wrote it */
        public readonly string $farm,
        /** seconds since 1970, refreshed at most once a minute */
        public readonly int $updated,
        public readonly string $data,
    ) {
    }

    public function encode(): string
    {
        return "$this->version $this->release $this->farm $this->updated\n$this->data";
    }

    public static function decode(string $text): ?self
    {
        if (preg_match('/^(\d+) (\S+) (\S+) (\d+)\n/', $text, $head) !== 1) {
            return null;
        }
        $data = substr($text, strlen($head[0]));
        return new self((int) $head[1], $head[2], $head[3], (int) $head[4], $data);
    }
}
