<?php

declare(strict_types=1);

namespace Webfarm;

/** The cache member that a session belongs to does not answer. */
final class CacheDown extends \RuntimeException
{
}
