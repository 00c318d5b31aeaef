"""The cluster as the pillar describes it: sites, farms, servers, balancers, releases.

:func:`parse` turns the pillar ``webfarm`` into a frozen :class:`Topology`, or raises
:class:`webfarm.errors.BadTopology` with every mistake: its path, what was found, what is allowed.
"""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError

from webfarm import names, relations, releases, shape
from webfarm.certificates.settings import Certifying
from webfarm.errors import BadTopology, WebfarmError
from webfarm.hw_profiles import HwProfile
from webfarm.packages.settings import Packages
from webfarm.policy import Policy
from webfarm.shape import Model
from webfarm.snapshots.settings import Snapshots
from webfarm.weights import Law

FENCE_SLOTS = 256  # a pick map shares out this many slots: no more farms in a site than that


def _name(value: object) -> str:
    fault = names.problem(value)
    if fault:
        raise ValueError(fault)
    return str(value)


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("is not an IP address") from None


def _endpoint(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError("must be ADDRESS:PORT with a port of 1..65535")
    return f"{_address(host)}:{int(port)}"


def _layer_name(value: object) -> str:
    """A site or a farm: it also names a backend of HAProxy and a key of a map."""
    name = _name(value)
    if name == "newest" or name.startswith("webfarm"):
        raise ValueError(
            "is reserved: `newest` and names that begin with `webfarm` are Webfarm's own"
        )
    return name


def _path(value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/") or not value.isprintable():
        raise ValueError("must be an absolute path without '..'")
    if set(value) & set(" \t'\"`$;&|<>(){}*?\\#%"):
        raise ValueError("contains a character that is not allowed in a path here")
    return value


def _version(value: object) -> object:
    """YAML reads an unquoted ``8.2`` as a number, and 8.10 would silently become 8.1."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError("is a number for YAML, put it in quotes")
    return value


Name = Annotated[str, BeforeValidator(_name)]
LayerName = Annotated[str, BeforeValidator(_layer_name)]
# validators that run before run in reverse order: the reason for a number comes first
Version = Annotated[str, BeforeValidator(_name), BeforeValidator(_version)]
Address = Annotated[str, AfterValidator(_address)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Path = Annotated[str, AfterValidator(_path)]
Port = Annotated[int, Field(ge=1, le=65535)]
Weight = Annotated[int, Field(ge=1, le=256)]
SqlName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
Domain = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")
]


class Balancer(Model):
    """One HAProxy node; ``management`` is where statistics and metrics are served."""

    address: Address
    public: Address | None = None
    management: Address = "127.0.0.1"


class Server(Model):
    """One web server, a member of a farm; its key in the pillar is its minion id."""

    address: Address
    port: Port = 8080
    hw_profile: Name = "default"
    weight: Weight = 100
    max_children: Annotated[int, Field(ge=1, le=4096)] = 20
    memcached_megabytes: Annotated[int, Field(ge=16, le=65536)] = 64


class Farm(Model):
    """Servers that share a memcached pool and are upgraded together."""

    servers: Annotated[dict[Name, Server], Field(min_length=1)]
    memcached: Annotated[list[Endpoint], Field(min_length=1)]
    sticky_servers: bool = False

    @property
    def weight(self) -> int:
        """The farm's share of new sessions: the sum of its servers' weights."""
        return sum(server.weight for server in self.servers.values())


class Database(Model):
    """A site's session database."""

    minion: Name
    address: Address
    port: Port = 3306
    name: SqlName = "webfarm"
    user: SqlName = "webfarm"


class Site(Model):
    """Farms behind one layer of site balancers, with one session database."""

    balancers: Annotated[dict[Name, Balancer], Field(min_length=1)]
    farms: Annotated[dict[LayerName, Farm], Field(min_length=1, max_length=FENCE_SLOTS)]
    database: Database
    vip: Address | None = None
    weight: Weight = 100
    policy: Policy = Policy()
    weights: Law = Law()
    snapshots: Snapshots | None = None


class Tls(Model):
    """The PEM file (chain and key) that the primary balancers present."""

    certificate: Path = "/etc/webfarm/tls/public.pem"


class Primary(Model):
    """The layer that terminates TLS and balances the sites."""

    balancers: Annotated[dict[Name, Balancer], Field(min_length=1)]
    domain: Domain
    vip: Address | None = None
    tls: Tls = Tls()


class Store(Model):
    """Where the release store is served by rsync."""

    minion: Name
    address: Address


class Preproduction(Certifying):
    """Servers on which releases and packages are certified."""

    servers: dict[Name, Server] = Field(default_factory=dict)


class Release(Model):
    """An ordered pair: a PHP version and a webapp version."""

    php: Version
    webapp: Version


class Node(Model):
    """Where a minion stands; ``site`` and ``farm`` are None where they do not apply."""

    id: str
    role: Literal["primary", "balancer", "server", "database", "store", "preproduction"]
    site: str | None = None
    farm: str | None = None
    node: Balancer | Server | Database | Store


class Topology(Model):
    """The whole pillar ``webfarm``."""

    store: Store
    primary: Primary
    sites: Annotated[dict[LayerName, Site], Field(min_length=1, max_length=FENCE_SLOTS)]
    preproduction: Preproduction = Preproduction()
    packages: Packages = Packages()
    hw_profiles: dict[Name, HwProfile] = Field(default_factory=dict)
    snapshots: Snapshots = Snapshots()
    releases: Annotated[dict[Version, Release], Field(min_length=1)]
    target: Version
    initial: Version

    def nodes(self) -> Iterator[Node]:
        """Every minion of the cluster, in the pillar's order."""
        yield Node(id=self.store.minion, role="store", node=self.store)
        for minion, balancer in self.primary.balancers.items():
            yield Node(id=minion, role="primary", node=balancer)
        for name, site in self.sites.items():
            database = site.database
            yield Node(id=database.minion, role="database", site=name, node=database)
            for minion, balancer in site.balancers.items():
                yield Node(id=minion, role="balancer", site=name, node=balancer)
            for farm_name, farm in site.farms.items():
                for minion, server in farm.servers.items():
                    yield Node(id=minion, role="server", site=name, farm=farm_name, node=server)
        for minion, server in self.preproduction.servers.items():
            yield Node(id=minion, role="preproduction", node=server)

    def node(self, minion: str) -> Node:
        """Where ``minion`` stands; :class:`WebfarmError` when the pillar does not name it."""
        for node in self.nodes():
            if node.id == minion:
                return node
        raise WebfarmError(
            f"minion {ascii(minion)[:80]} is not in the pillar `webfarm`: add it to a site, "
            "a farm, the primary or the preproduction, or take the webfarm states off its top file"
        )

    def snapshots_of(self, minion: str) -> Snapshots:
        """How the root of ``minion`` is kept: by its site's settings, else by everybody's."""
        name = self.node(minion).site
        own = None if name is None else self.sites[name].snapshots
        return self.snapshots if own is None else own

    def site(self, name: str) -> Site:
        """The site ``name``; the error names the sites that exist."""
        found = self.sites.get(names.check(name, "site"))
        if found is None:
            raise WebfarmError(f"there is no site {name}; there are: {', '.join(self.sites)}")
        return found

    def farm(self, site: str, name: str) -> Farm:
        """The farm ``name`` of ``site``; the error names the farms that exist."""
        farms = self.site(site).farms
        found = farms.get(names.check(name, "farm"))
        if found is None:
            raise WebfarmError(f"site {site} has no farm {name}; it has: {', '.join(farms)}")
        return found

    def release(self, name: str) -> Release:
        """The release ``name``; the error names the releases that exist."""
        found = self.releases.get(names.check(name, "release"))
        if found is None:
            known = ", ".join(sorted(self.releases, key=releases.order_key))
            raise WebfarmError(f"there is no release {name} in the pillar; it has: {known}")
        return found


def parse(data: object) -> Topology:
    """Build the :class:`Topology` from the pillar's value of ``webfarm``.

    Raises :class:`BadTopology` that lists all mistakes at once.
    """
    if not isinstance(data, Mapping):
        raise BadTopology(
            [f"webfarm: is {type(data).__name__}, expected a mapping (is the pillar assigned?)"]
        )
    plain = {"initial": data.get("target", ""), **data}
    mistakes = list(relations.mistakes(plain))
    try:
        topology = Topology.model_validate(plain)
    except ValidationError as error:
        lines = shape.lines(error, "webfarm")
        if plain["initial"] == "":  # it defaults to the target, which is reported as missing
            lines = [line for line in lines if not line.startswith("webfarm.initial:")]
        raise BadTopology(lines + mistakes) from None
    if mistakes:
        raise BadTopology(mistakes)
    return topology
