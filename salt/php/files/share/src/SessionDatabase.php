<?php

declare(strict_types=1);

namespace Webfarm;

use mysqli;
use mysqli_driver;
use mysqli_sql_exception;
use mysqli_stmt;

/** The site's session database. Connects when first asked; everything throws DatabaseDown. */
final class SessionDatabase
{
    private const CONNECT_SECONDS = 2;
    private const ANSWER_SECONDS = 5;
    /** Shorter than an answer may take. */
    private const LOCK_SLICE_SECONDS = 2;
    private const PURGE_ROWS = 500;
    private const PURGE_BATCHES = 4;

    private ?mysqli $connection = null;

    /** @param array{address: string, port: int, name: string, user: string, password: string} $where */
    public function __construct(
        #[\SensitiveParameter]
        private readonly array $where,
    ) {
    }

    public function read(string $id): ?SessionRecord
    {
        $found = $this->ask(
            'SELECT version, `release`, farm, updated, data FROM sessions WHERE id = ?',
            [$id],
            static fn (mysqli_stmt $done) => $done->get_result()->fetch_row(),
        );
        if (!$found) {
            return null;
        }
        [$version, $release, $farm, $updated, $data] = $found;
        return new SessionRecord((int) $version, $release, $farm, (int) $updated, $data);
    }

    /** Store a new session; false when there is one of this id. */
    public function insert(string $id, SessionRecord $new): bool
    {
        return $this->change(
            'INSERT IGNORE INTO sessions (id, version, `release`, farm, updated, data)'
            . ' VALUES (?, ?, ?, ?, ?, ?)',
            [$id, $new->version, $new->release, $new->farm, $new->updated, $new->data],
        ) === 1;
    }

    /** Replace the version that was read; false when it is no longer the one that is stored. */
    public function update(string $id, int $read, SessionRecord $new): bool
    {
        return $this->change(
            'UPDATE sessions SET version = ?, `release` = ?, farm = ?, updated = ?, data = ?'
            . ' WHERE id = ? AND version = ?',
            [$new->version, $new->release, $new->farm, $new->updated, $new->data, $id, $read],
        ) === 1;
    }

    /** Say that the session is still in use. */
    public function touch(string $id, int $updated): void
    {
        $this->change('UPDATE sessions SET updated = ? WHERE id = ?', [$updated, $id]);
    }

    public function delete(string $id): void
    {
        $this->change('DELETE FROM sessions WHERE id = ?', [$id]);
    }

    /** Delete sessions that were last used before `$before`, some at a time: how many. */
    public function purge(int $before): int
    {
        $gone = 0;
        for ($batch = 0; $batch < self::PURGE_BATCHES; $batch++) {
            $rows = $this->change(
                'DELETE FROM sessions WHERE updated < ? ORDER BY updated LIMIT ' . self::PURGE_ROWS,
                [$before],
            );
            $gone += $rows;
            if ($rows < self::PURGE_ROWS) {
                break;
            }
        }
        return $gone;
    }

    /** Take the lock within `$seconds`; it is given back with the connection at the latest. */
    public function lock(string $id, float $seconds): bool
    {
        $deadline = microtime(true) + $seconds;
        do {
            $slice = max(0, min(self::LOCK_SLICE_SECONDS, $deadline - microtime(true)));
            $locked = $this->ask(
                'SELECT GET_LOCK(?, ?)',
                [self::lockName($id), $slice],
                static fn (mysqli_stmt $done) => $done->get_result()->fetch_row()[0],
            );
        } while ($locked !== 1 && microtime(true) < $deadline);
        return $locked === 1;
    }

    public function unlock(string $id): void
    {
        $this->ask(
            'SELECT RELEASE_LOCK(?)',
            [self::lockName($id)],
            static fn (mysqli_stmt $done) => $done->get_result()->fetch_row(),
        );
    }

    /** MariaDB takes 64 characters, and ignores their case. */
    private static function lockName(string $id): string
    {
        return 'webfarm:' . sha1($id);
    }

    /** @param list<int|float|string> $values */
    private function change(string $sql, array $values): int
    {
        return $this->ask($sql, $values, static fn (mysqli_stmt $done) => $done->affected_rows);
    }

    /**
     * @template T
     * @param list<int|float|string> $values
     * @param callable(mysqli_stmt): T $answer
     * @return T
     */
    private function ask(string $sql, array $values, callable $answer): mixed
    {
        // the webapp has its own opinion of how mysqli reports errors
        $driver = new mysqli_driver();
        $report = $driver->report_mode;
        $driver->report_mode = MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT;
        try {
            $statement = $this->connection()->prepare($sql);
            $statement->execute($values);
            return $answer($statement);
        } catch (mysqli_sql_exception $error) {
            $this->connection = null;
            throw new DatabaseDown($error->getMessage(), $error->getCode());
        } finally {
            $driver->report_mode = $report;
        }
    }

    private function connection(): mysqli
    {
        if ($this->connection === null) {
            $new = mysqli_init();
            $new->options(MYSQLI_OPT_CONNECT_TIMEOUT, self::CONNECT_SECONDS);
            $new->options(MYSQLI_OPT_READ_TIMEOUT, self::ANSWER_SECONDS);
            @$new->real_connect(
                $this->where['address'],
                $this->where['user'],
                $this->where['password'],
                $this->where['name'],
                $this->where['port'],
            );
            $this->connection = $new;
        }
        return $this->connection;
    }
}
