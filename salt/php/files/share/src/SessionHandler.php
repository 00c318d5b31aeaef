<?php

declare(strict_types=1);

namespace Webfarm;

/**
 * PHP's sessions: in the site's database, through the farm's cache.
 *
 * - What was answered is stored: a write goes to the database first, then to the cache.
 * - One request at a time, wherever they meet: who works on a session has its lock in our own cache and
 *   in that of the farm that answered it last, as the database says. Where a cache's lock is not enough,
 *   because it is away, about to stop or not back for long, also in the database.
 * - Nothing goes back in time. The cache's entry is taken out while a request has the session and put
 *   back at its end, so a cache that missed a write has no entry, and only the farm that answered last
 *   has one. When a cache does not answer, X-Webfarm-Uncached makes the balancer send the session's next
 *   request with X-Webfarm-Moved, which reads the database; so does a session that comes from elsewhere.
 * - Nothing is overwritten: each write names the version that it read.
 * - A session that a newer release wrote is not for us: the client gets a new one.
 */
final class SessionHandler implements
    \SessionHandlerInterface,
    \SessionIdInterface,
    \SessionUpdateTimestampHandlerInterface
{
    private const LOCK_WAIT_SECONDS = 30;
    /** For the request that the farm that answered last may still be working on. */
    private const OTHER_FARM_WAIT_SECONDS = 10;
    /** How often another farm may answer while we wait for the locks. */
    private const TRIALS = 5;
    private const REFRESH_SECONDS = 60;
    /** How far behind the others a balancer may be. */
    private const LATE_SECONDS = 30;

    private readonly SessionCache $cache;
    /** The session that this request has; empty: none yet. */
    private string $id = '';
    /** As it was read or written last; null: it is new. */
    private ?SessionRecord $record = null;
    /** Whether the cache has shown that it has no entry of the session left. */
    private bool $cached = true;
    /** Whether the cache needs its entry again, when nothing is written. */
    private bool $takenOut = false;
    /** @var array<string, SessionCache> those in which we have the session's lock, by farm */
    private array $locked = [];
    private bool $lockedInDatabase = false;
    /** Whether these are enough, so that our cache may have the session's entry. */
    private bool $settled = true;
    /** @var array<string, true> ids made here, that nobody else can know, and not stored yet */
    private array $fresh = [];
    private bool $refused = false;

    /**
     * @param string $farm ours
     * @param array<string, list<string>> $caches of the site's farms: ADDRESS:PORT of each member
     * @param bool $moved whether our cache may hold an old state of the session
     */
    public function __construct(
        private readonly string $farm,
        private readonly array $caches,
        private readonly SessionDatabase $database,
        private readonly Release $release,
        private readonly bool $moved,
    ) {
        $this->cache = new SessionCache($caches[$farm]);
    }

    public function open(string $path, string $name): bool
    {
        return true;
    }

    public function create_sid(): string
    {
        $id = bin2hex(random_bytes(16));
        $this->fresh[$id] = true;
        return $id;
    }

    public function validateId(string $id): bool
    {
        if (isset($this->fresh[$id]) || preg_match('/^[A-Za-z0-9,-]{16,128}$/D', $id) !== 1) {
            return false;
        }
        $this->claim($id);
        if ($this->record === null) {
            $this->close();
            return false;
        }
        return true;
    }

    public function read(string $id): string
    {
        if (isset($this->fresh[$id])) {
            $this->begin($id);
            $this->tellWhetherCached();
        } elseif ($this->id !== $id) {
            $this->claim($id);
        }
        return $this->record?->data ?? '';
    }

    public function write(string $id, string $data): bool
    {
        if (!$this->refused) {
            $this->save($data);
        }
        return true;
    }

    /** PHP calls this in place of write() when the data is as it was read. */
    public function updateTimestamp(string $id, string $data): bool
    {
        if ($this->refused) {
            return true;
        }
        $record = $this->record;
        if ($record === null) {
            $this->save($data);
        } elseif (time() - $record->updated >= self::REFRESH_SECONDS) {
            try {
                $this->database->touch($id, time());
                $this->record = new SessionRecord(
                    $record->version,
                    $record->release,
                    $record->farm,
                    time(),
                    $record->data,
                );
            } catch (DatabaseDown $error) {
                self::log("session not refreshed: {$error->getMessage()}");
            }
        }
        return true;
    }

    public function destroy(string $id): bool
    {
        try {
            $this->database->delete($id);
        } catch (DatabaseDown $error) {
            $this->refuse("the session cannot be destroyed: {$error->getMessage()}");
        }
        $this->tryCache(fn () => $this->cache->forget($id));
        $this->record = null;
        $this->takenOut = false;
        return true;
    }

    public function close(): bool
    {
        if ($this->refused || $this->id === '') {
            return true;
        }
        // nothing was written, but this release has answered
        if ($this->takenOut && $this->record !== null && !$this->isStampedByUs($this->record)) {
            $this->save($this->record->data);
        }
        if ($this->takenOut && $this->record !== null) {
            $this->putBack();
        }
        $this->unlock();
        $this->id = '';
        $this->record = null;
        return true;
    }

    public function gc(int $max_lifetime): int|false
    {
        try {
            return $this->database->purge(time() - $max_lifetime - self::REFRESH_SECONDS);
        } catch (DatabaseDown $error) {
            self::log("old sessions not deleted: {$error->getMessage()}");
            return false;
        }
    }

    private function begin(string $id): void
    {
        $this->id = $id;
        $this->record = null;
        $this->takenOut = false;
        $this->settled = true;
    }

    /** Have the session to ourselves, and know what is stored of it. */
    private function claim(string $id): void
    {
        $this->begin($id);
        $farms = [$this->farm];
        for ($trial = 1; ; $trial++) {
            $record = $this->lock($farms, $trial === 1 && !$this->moved);
            $this->takeOut();
            try {
                $record ??= $this->database->read($id);
            } catch (DatabaseDown $error) {
                $this->refuse("the session cannot be read: {$error->getMessage()}");
            }
            $last = $record?->farm ?? $this->farm;
            $known = in_array($last, $farms, true) || !isset($this->caches[$last]);
            if ($known || $trial === self::TRIALS || $this->isOfTheFuture($record)) {
                break;
            }
            // in the order of their names, lest two requests wait for each other
            $this->unlock();
            $farms = [$this->farm, $last];
            sort($farms);
        }
        if ($record !== null && $this->isOfTheFuture($record)) {
            self::log("session of release $record->release, by $record->farm, refused");
            if (!$this->moved && time() - $record->updated < self::LATE_SECONDS) {
                // it has just moved on, and the balancer does not know it yet: another one does
                $this->refused = true;
                $this->unlock();
                Unavailable::answer('This session has moved.', 425);
            }
            return;
        }
        $this->record = $record;
        $this->takenOut = true;
    }

    private function save(string $data): void
    {
        $new = new SessionRecord(
            ($this->record?->version ?? 0) + 1,
            $this->release->name,
            $this->farm,
            time(),
            $data,
        );
        try {
            $stored = $this->record === null
                ? $this->database->insert($this->id, $new)
                : $this->database->update($this->id, $this->record->version, $new);
        } catch (DatabaseDown $error) {
            $this->refuse("the session cannot be stored: {$error->getMessage()}");
        }
        if (!$stored) {
            $this->refuse('the session was changed by another request at the same time');
        }
        unset($this->fresh[$this->id]);
        $this->record = $new;
        $this->takenOut = true;
    }

    private function putBack(): void
    {
        $this->takenOut = false;
        if (!$this->settled) {
            return; // who has only the database's lock could not take it out
        }
        $seconds = (int) ini_get('session.gc_maxlifetime');
        $added = $this->tryCache(fn () => $this->cache->add($this->id, $this->record, $seconds));
        if ($added === false) {
            $this->tryCache(fn () => $this->cache->forget($this->id));
            $this->cached = false;
            $this->tellWhetherCached();
        }
    }

    /**
     * Have the session's lock; in the database too, when one of these caches is away or not settled.
     *
     * @param list<string> $farms in the order in which to lock; the database is always the last
     * @param bool $wanted whether our cache's entry may be believed
     * @return ?SessionRecord that entry; not of a cache that is not settled: who has only the database's
     *     lock could not take it out
     */
    private function lock(array $farms, bool $wanted): ?SessionRecord
    {
        foreach ($farms as $farm) {
            if ($farm === $this->farm) {
                $this->tryCache(fn () => $this->lockInCache());
            } else {
                $this->lockInCacheOf($farm);
            }
        }
        $record = null;
        $this->settled = count($this->locked) === count($farms);
        foreach ($this->locked as $farm => $cache) {
            $own = $farm === $this->farm;
            $look = fn () => $cache->look($this->id, $own && $wanted);
            $seen = $own ? $this->tryCache($look) : $this->tryCacheOf($farm, $look);
            $this->settled = $this->settled && ($seen[0] ?? false);
            $record ??= $seen[1] ?? null;
        }
        if (!$this->settled) {
            $this->lockInDatabase();
        }
        return $this->settled ? $record : null;
    }

    private function lockInCache(): void
    {
        $deadline = microtime(true) + self::LOCK_WAIT_SECONDS;
        for ($pause = 2000; !$this->cache->lock($this->id); $pause = min(2 * $pause, 50000)) {
            if (microtime(true) > $deadline) {
                // its holder was killed; if it was not, the version check stops one of us
                self::log('session lock seized after ' . self::LOCK_WAIT_SECONDS . ' s');
                $this->cache->seize($this->id);
                break;
            }
            usleep($pause);
        }
        $this->locked[$this->farm] = $this->cache;
    }

    /** Keep another farm away from the session until we are done. */
    private function lockInCacheOf(string $farm): void
    {
        $cache = new SessionCache($this->caches[$farm]);
        $deadline = microtime(true) + self::OTHER_FARM_WAIT_SECONDS;
        $this->tryCacheOf($farm, function () use ($cache, $farm, $deadline): void {
            while (!$cache->lock($this->id)) {
                if (microtime(true) > $deadline) {
                    self::log("session lock of $farm not had in " . self::OTHER_FARM_WAIT_SECONDS . ' s');
                    $cache->forget($this->id);
                    return;
                }
                usleep(5000);
            }
            $this->locked[$farm] = $cache;
        });
    }

    /** No cache that we can reach has an entry of the session left. */
    private function takeOut(): void
    {
        foreach ($this->locked as $farm => $cache) {
            if ($farm === $this->farm) {
                $this->tryCache(fn () => $cache->forget($this->id));
                continue;
            }
            try {
                $cache->forget($this->id);
            } catch (CacheDown) {
                // its next request is marked as moved and does not read it
            }
        }
        $this->tellWhetherCached();
    }

    private function lockInDatabase(): void
    {
        if ($this->lockedInDatabase) {
            return;
        }
        try {
            $this->lockedInDatabase = $this->database->lock($this->id, self::LOCK_WAIT_SECONDS);
        } catch (DatabaseDown $error) {
            $this->refuse("the cache is not enough, the database does not answer: {$error->getMessage()}");
        }
    }

    private function unlock(): void
    {
        foreach ($this->locked as $cache) {
            try {
                $cache->unlock($this->id);
            } catch (CacheDown) {
                // the lock ends by itself
            }
        }
        $this->locked = [];
        if ($this->lockedInDatabase) {
            $this->lockedInDatabase = false;
            try {
                $this->database->unlock($this->id);
            } catch (DatabaseDown) {
                // the lock went with the connection
            }
        }
    }

    /** What `$exchange` returns; null when the cache does not answer, now or earlier in this request. */
    private function tryCache(callable $exchange): mixed
    {
        if (!$this->cached) {
            return null;
        }
        try {
            return $exchange();
        } catch (CacheDown $error) {
            $this->cached = false;
            self::log("session cache does not answer: {$error->getMessage()}");
            $this->tellWhetherCached();
            return null;
        }
    }

    /** What `$exchange` with another farm's cache returns; null when that does not answer. */
    private function tryCacheOf(string $farm, callable $exchange): mixed
    {
        try {
            return $exchange();
        } catch (CacheDown $error) {
            self::log("session cache of $farm does not answer: {$error->getMessage()}");
            return null;
        }
    }

    /** To the balancer: the session's next request must read the database, or need not. */
    private function tellWhetherCached(): void
    {
        if (headers_sent()) {
            return;
        }
        if ($this->cached) {
            header_remove('X-Webfarm-Uncached');
        } else {
            header('X-Webfarm-Uncached: 1');
        }
    }

    private function isOfTheFuture(SessionRecord $record): bool
    {
        return $this->release->isOlderThan($record->release);
    }

    private function isStampedByUs(SessionRecord $record): bool
    {
        return $record->release === $this->release->name && $record->farm === $this->farm;
    }

    /** End the request: an answer must not tell of a session that is not stored. */
    private function refuse(string $why): never
    {
        $this->refused = true;
        $this->unlock();
        self::log($why);
        Unavailable::answer('The session is not available now.');
    }

    private static function log(string $what): void
    {
        error_log("webfarm: $what");
    }
}
