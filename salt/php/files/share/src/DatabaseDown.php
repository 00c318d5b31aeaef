<?php

declare(strict_types=1);

namespace Webfarm;

/** The site's session database does not answer. */
final class DatabaseDown extends \RuntimeException
{
}
