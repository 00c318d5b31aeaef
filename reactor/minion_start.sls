# A minion that has started gets the modules of now; a balancer then compares HAProxy with its disk, and
# a web server that is not in service is brought to its farm's release.
{%- if data['id'] | regex_match('([A-Za-z0-9][A-Za-z0-9_.-]*\\Z)') %}
modules:
  local.saltutil.sync_all:
    - tgt: {{ data['id'] | json }}
    - tgt_type: list
balancer:
  local.haproxy_runtime.reconcile:
    - tgt: {{ ('L@' ~ data['id'] ~ ' and P@webfarm:role:(primary|balancer)') | json }}
    - tgt_type: compound
server:
  runner.upgrade.rejoin:
    - args:
        - minion: {{ data['id'] | json }}
{%- endif %}
