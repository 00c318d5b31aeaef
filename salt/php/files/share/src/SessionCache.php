<?php

declare(strict_types=1);

namespace Webfarm;

use Memcached;

/**
 * A farm's memcached pool: sessions and their locks.
 *
 * The session's id chooses the member for both, so that whoever holds the lock sees the data. Members
 * that fail keep their place: another member must not answer for them. Everything throws CacheDown.
 */
final class SessionCache
{
    /** A request that outlives its lock is stopped by the database's version check. */
    private const LOCK_SECONDS = 60;
    /** Until we know that we have it: a request for the lock that we gave up may still arrive. */
    private const LOCK_TRIAL_SECONDS = 3;
    /** Longer than a lock lasts, and than a request. */
    private const YOUNG_SECONDS = 70;
    private const CONNECT_MILLISECONDS = 100;
    /** A member that hangs is connected to: who gives up too soon goes past a lock that is held. */
    private const ANSWER_MILLISECONDS = 2000;

    private readonly Memcached $pool;
    /** systemd's id of this start of php-fpm, and our own */
    private readonly string $token;
    private float $lockedAt = 0;
    private bool $askedTwice = false;

    /** @param list<string> $members ADDRESS:PORT of each */
    public function __construct(array $members)
    {
        $this->token = getenv('INVOCATION_ID') . ':' . bin2hex(random_bytes(8));
        $this->pool = new Memcached('webfarm-' . md5(implode(' ', $members)));
        if ($this->pool->getServerList() !== []) {
            return; // the connections of an earlier request
        }
        $this->pool->setOptions([
            Memcached::OPT_LIBKETAMA_COMPATIBLE => true,
            Memcached::OPT_REMOVE_FAILED_SERVERS => false,
            Memcached::OPT_RETRY_TIMEOUT => 1,
            Memcached::OPT_TCP_NODELAY => true,
            Memcached::OPT_NO_BLOCK => true,
            Memcached::OPT_CONNECT_TIMEOUT => self::CONNECT_MILLISECONDS,
            Memcached::OPT_POLL_TIMEOUT => self::ANSWER_MILLISECONDS,
            Memcached::OPT_SEND_TIMEOUT => self::ANSWER_MILLISECONDS * 1000,
            Memcached::OPT_RECV_TIMEOUT => self::ANSWER_MILLISECONDS * 1000,
            Memcached::OPT_COMPRESSION => false,
        ]);
        $this->pool->addServers(array_map(static function (string $member): array {
            $colon = strrpos($member, ':');
            return [substr($member, 0, $colon), (int) substr($member, $colon + 1)];
        }, $members));
    }

    public function read(string $id): ?SessionRecord
    {
        $text = $this->ask(fn () => $this->pool->getByKey($id, "session:$id"));
        return is_string($text) ? SessionRecord::decode($text) : null;
    }

    /**
     * Whether the session's member is settled, so that its lock, which we have, is enough: and, if
     * `$wanted`, what it has of the session.
     *
     * A member that began empty knows nothing of who was at work before. So who first finds it without
     * the key `since` adds that, and before it `young`, which goes by memcached's own clock: a machine
     * that has just booted may have the time wrong. Until then, and again when `retire.php` has put
     * `young` back since memcached is about to stop, the database's lock is needed as well.
     *
     * To be asked after the lock was had: if the member began anew in between, it has no `since`.
     *
     * @return array{bool, ?SessionRecord}
     */
    public function look(string $id, bool $wanted): array
    {
        $keys = ['since', 'young', ...($wanted ? ["session:$id"] : [])];
        $found = $this->ask(fn () => $this->pool->getMultiByKey($id, $keys)) ?: [];
        if (!isset($found['since'])) {
            $this->ask(fn () => $this->pool->addByKey($id, 'young', '1', self::YOUNG_SECONDS));
            // on the same connection, lest a member that begins anew just now gets this one alone
            $this->ask(fn () => $this->pool->addByKey($id, 'since', (string) time()), 1);
        }
        $text = $found["session:$id"] ?? null;
        return [
            isset($found['since']) && !isset($found['young']),
            is_string($text) ? SessionRecord::decode($text) : null,
        ];
    }

    /**
     * Put in what was taken out; false when there is something: a write of a request that had given it
     * up, and that arrived since. So an old write never replaces a newer one.
     */
    public function add(string $id, SessionRecord $record, int $seconds): bool
    {
        return (bool) $this->ask(
            fn () => $this->pool->addByKey($id, "session:$id", $record->encode(), $seconds),
        );
    }

    public function forget(string $id): void
    {
        $this->ask(fn () => $this->pool->deleteByKey($id, "session:$id"));
    }

    /** True when the lock is ours now. */
    public function lock(string $id): bool
    {
        $key = "lock:$id";
        $try = fn () => $this->pool->addByKey($id, $key, $this->token, self::LOCK_TRIAL_SECONDS);
        $this->lockedAt = microtime(true);
        // the answer to the first try may have been lost, not the lock
        $ours = $this->ask($try) || ($this->askedTwice && $this->holder($id) === $this->token);
        if (!$ours) {
            return $this->inherit($id);
        }
        return $this->ask(fn () => $this->pool->touchByKey($id, $key, self::LOCK_SECONDS));
    }

    /** Take the lock from a php-fpm that has ended, as `ended.php` told: only one of us does. */
    private function inherit(string $id): bool
    {
        $held = $this->ask(
            fn () => $this->pool->getByKey($id, "lock:$id", null, Memcached::GET_EXTENDED),
        );
        $ended = is_array($held)
            && preg_match('/^([0-9a-f]{32}):/', (string) $held['value'], $holder) === 1
            && $this->ask(fn () => $this->pool->getByKey($id, "ended:$holder[1]")) !== false;
        return $ended && $this->ask(
            fn () => $this->pool->casByKey(
                $held['cas'], $id, "lock:$id", $this->token, self::LOCK_SECONDS
            ),
        );
    }

    /** Who holds the lock; null: nobody. */
    public function holder(string $id): ?string
    {
        $token = $this->ask(fn () => $this->pool->getByKey($id, "lock:$id"));
        return is_string($token) ? $token : null;
    }

    /** Take the lock from a holder that has had it for too long. */
    public function seize(string $id): void
    {
        $this->lockedAt = microtime(true);
        $this->ask(
            fn () => $this->pool->setByKey($id, "lock:$id", $this->token, self::LOCK_SECONDS),
        );
    }

    public function unlock(string $id): void
    {
        $surelyOurs = microtime(true) - $this->lockedAt < self::LOCK_SECONDS / 3;
        if ($surelyOurs || $this->holder($id) === $this->token) {
            $this->ask(fn () => $this->pool->deleteByKey($id, "lock:$id"));
        }
    }

    /** @param callable(): mixed $exchange false is an answer too: not found, not stored */
    private function ask(callable $exchange, int $attempts = 2): mixed
    {
        for ($attempt = 1; ; $attempt++) {
            $this->askedTwice = $attempt === 2;
            $answer = $exchange();
            $code = $this->pool->getResultCode();
            if (
                in_array(
                    $code,
                    [
                        Memcached::RES_SUCCESS,
                        Memcached::RES_NOTFOUND,
                        Memcached::RES_NOTSTORED,
                        Memcached::RES_DATA_EXISTS,
                    ],
                    true,
                )
            ) {
                return $answer;
            }
            // a connection kept from an earlier request may have died since: once more, on a new one
            if ($attempt === $attempts || $code === Memcached::RES_TIMEOUT) {
                throw new CacheDown($this->pool->getResultMessage(), $code);
            }
        }
    }
}
