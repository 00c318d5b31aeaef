# A minion that has started gets the modules of now; a balancer then compares HAProxy with its disk.
modules:
  local.saltutil.sync_all:
    - tgt: {{ data['id'] | json }}
    - tgt_type: list
balancer:
  local.haproxy_runtime.reconcile:
    - tgt: {{ ('L@' ~ data['id'] ~ ' and P@webfarm:role:(primary|balancer)') | json }}
    - tgt_type: compound
