#!py
# A vector of weights goes from the master's engine to the balancers of its site. Only relayed: whoever
# fired the event, a balancer believes nothing but the master's signature in it.
import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST = 262_144  # characters: what no balancer would take is not sent


def run():
    envelope = {key: data.get(key) for key in ("body", "signature")}
    if not all(isinstance(text, str) and len(text) <= MOST for text in envelope.values()):
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
            "local.haproxy_runtime.apply_weights": [*target, {"args": [{"envelope": envelope}]}]
        }
    }


def is_name(value):
    return isinstance(value, str) and NAME.fullmatch(value) is not None
