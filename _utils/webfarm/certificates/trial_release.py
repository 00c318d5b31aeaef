"""The trial of a release: stage its trees, switch to it, read every file of both trees back."""

from dataclasses import dataclass

from webfarm.certificates import shapes
from webfarm.certificates.bench import Bench, Look, Means
from webfarm.certificates.model import NotCertified, Subject
from webfarm.certificates.settings import Certifying
from webfarm.certificates.trial import Place, Proof, Trial

SWITCH_SECONDS = 120.0
VERIFY_SECONDS = 600.0
MODULES = {"php": "php_version.verify", "webapp": "webapp.verify"}


@dataclass(frozen=True)
class Pair:
    """A release's versions, and the digests of its trees where the store is on this master."""

    php: str
    webapp: str
    digests: dict[str, str] | None = None


class ReleaseTrial(Trial):
    """The release of the subject, which is this pair."""

    def __init__(
        self,
        means: Means,
        bench: Bench,
        settings: Certifying,
        subject: Subject,
        place: Place,
        pair: Pair,
    ) -> None:
        super().__init__(means, bench, settings, subject, place)
        self.release = subject.words[0]
        self.pair = pair

    def change(self, first: Look) -> None:
        """Stage and switch; on a server that runs it already both do nothing."""
        arguments = {"release": self.release, "php": self.pair.php, "webapp": self.pair.webapp}
        seconds = float(self.settings.install_seconds)
        with self.step("stage") as found:
            trees = {**arguments, "deadline": seconds / 2}
            if self.pair.digests is not None:
                trees["digests"] = self.pair.digests
            value = self.bench.change("webfarm_release.stage", trees, seconds + 60)
            with self.bench.shaped("webfarm_release.stage"):
                reply = shapes.mapping(value, "the answer")
                for kind in MODULES:
                    said = shapes.field(reply, kind, "the answer")
                    if said not in ("installed", "present", "replaced"):
                        raise shapes.BadShape(f"{kind} is {said!a:.40}")
                    found[kind] = said
        with self.step("switch"):
            self.bench.change("webfarm_release.switch", arguments, SWITCH_SECONDS)

    def read_back(self) -> Proof:
        """The release runs, and each tree is the one that the store has, file by file."""
        seen = self.bench.look()
        runs = (seen.release, seen.php, seen.webapp)
        if runs != (self.release, self.pair.php, self.pair.webapp) or not seen.ready:
            raise NotCertified(
                f"{self.server} runs {seen.release} (php {seen.php}, webapp {seen.webapp}), "
                f"expected {self.release} (php {self.pair.php}, webapp {self.pair.webapp}), and "
                f"ready: {seen.why or seen.ready}"
            )
        digests = {}
        for kind, function in MODULES.items():
            version = getattr(self.pair, kind)
            wanted = self.pair.digests[kind] if self.pair.digests is not None else None
            arguments = {"version": version, **({"digest": wanted} if wanted else {})}
            value = self.bench.ask(function, arguments, VERIFY_SECONDS)
            with self.bench.shaped(function):
                reply = shapes.mapping(value, "the answer")
                digests[kind] = shapes.tree(shapes.field(reply, "digest", "the answer"))
                if reply.get("version") != version:
                    raise shapes.BadShape(f"the version is {reply.get('version')!a:.60}")
            if wanted is not None and digests[kind] != wanted:
                raise NotCertified(
                    f"{self.server}: the tree of {kind} {version} is {digests[kind][:16]}…, the "
                    f"store has {wanted[:16]}…"
                )
        return {"release": {"php": self.pair.php, "webapp": self.pair.webapp, "digests": digests}}
