#!py
# Vectors of weights go from the master's engine to the balancers of their site. Only relayed: whoever
# fired the event, a balancer believes nothing but the master's signature in it.
import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST = 512  # farms
LONGEST = 262_144  # characters: what no balancer would take is not sent


def run():
    vectors = data.get("vectors")
    if not isinstance(vectors, list) or not 0 < len(vectors) <= MOST:
        return {}
    envelopes = [envelope(vector) for vector in vectors]
    if None in envelopes or sum(len(t) for e in envelopes for t in e.values()) > LONGEST:
        return {}
    site = tag.split("/")[2]
    balancers = data.get("balancers")
    if isinstance(balancers, list) and 0 < len(balancers) <= 64 and all(map(is_name, balancers)):
        target = [{"tgt": ",".join(balancers)}, {"tgt_type": "list"}]
    elif balancers is None and is_name(site):
        target = [
            {"tgt": f"G@webfarm:role:balancer and G@webfarm:site:{site}"},
            {"tgt_type": "compound"},
        ]
    else:
        return {}
    return {
        "weights": {
            "local.haproxy_runtime.apply_weights": [*target, {"args": [{"envelopes": envelopes}]}]
        }
    }


def envelope(vector):
    found = {key: vector.get(key) for key in ("body", "signature")} if isinstance(vector, dict) else {}
    return found if found and all(isinstance(text, str) for text in found.values()) else None


def is_name(value):
    return isinstance(value, str) and NAME.fullmatch(value) is not None
