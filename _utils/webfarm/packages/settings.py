"""The pillar ``webfarm:packages``: which packages disturb a service, and where Portage is."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from webfarm.shape import Model

# a glob over package names or units: no spaces, nothing that a shell or a path would read
Glob = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9*?@_][A-Za-z0-9*?@_./+:-]*$", max_length=120)
]
Folder = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./+-]*$", max_length=400)]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9@][A-Za-z0-9@.:/,_-]*$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^(0x)?[A-Fa-f0-9]{8,64}$")]

REBOOT = (
    *("linux-image-*", "libc6", "systemd", "libsystemd-shared", "dbus", "dbus-daemon"),
    *("*-microcode", "sys-kernel/*", "sys-libs/glibc", "sys-apps/systemd", "sys-apps/dbus"),
)
DISRUPTIVE = (
    *REBOOT,
    *("libc-bin", "udev", "nginx*", "libnginx-*", "php*", "memcached", "haproxy", "keepalived"),
    *("mariadb-*", "salt-*", "www-servers/nginx", "dev-lang/php", "net-misc/memcached"),
    *("net-proxy/haproxy", "sys-cluster/keepalived", "dev-db/mariadb", "app-admin/salt"),
)
SERVICES = (
    *("nginx.service", "webfarm-*.service", "php*-fpm.service", "memcached*.service"),
    *("haproxy*.service", "keepalived.service", "mariadb.service", "mysql.service"),
    "rsync*.service",
)


class Portage(Model):
    """Where Portage is, and how a binary host is built.

    bin
        The folder of ``emerge``, ``emaint`` and of the ``python3`` that has Portage's library.
    config
        Portage's configuration, ``/etc/portage`` on Gentoo.
    packages
        Where a preproduction server keeps what it has built and publishes (``PKGDIR``).
    cache
        Where a node keeps what it has fetched.
    port
        The port on which a preproduction server serves its binary host.
    distcc
        The hosts that help to compile; empty: none.
    jobs
        How many compilers run at once; 0: what ``make.conf`` says.
    sign
        The id of the OpenPGP key that signs packages; the key is root's. None: not signed.
    """

    bin: Folder = "/usr/bin"
    config: Folder = "/etc/portage"
    packages: Folder = "/srv/webfarm/binhost"
    cache: Folder = "/var/cache/webfarm/binpkgs"
    port: Annotated[int, Field(ge=1, le=65535)] = 8680
    distcc: tuple[Host, ...] = ()
    jobs: Annotated[int, Field(ge=0, le=1024)] = 0
    sign: KeyId | None = None


class Packages(Model):
    """Packages of the operating system; every key has a default.

    manager
        ``apt`` or ``portage``; default: by the grain ``os_family``.
    disruptive
        Packages that are never changed in service, as globs.
    reboot
        Packages that run only after a reboot.
    services
        The units whose programs and libraries are not changed in service.
    """

    manager: Literal["apt", "portage"] | None = None
    disruptive: tuple[Glob, ...] = DISRUPTIVE
    reboot: tuple[Glob, ...] = REBOOT
    services: tuple[Glob, ...] = SERVICES
    portage: Portage = Portage()
