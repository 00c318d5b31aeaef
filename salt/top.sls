{#- What a minion is comes from the topology in the pillar, by its id. -#}
{%- if 'webfarm_topology.node' not in salt -%}
{{ raise('the Webfarm modules are not on this minion yet: run saltutil.sync_all first') }}
{%- endif -%}
{%- set states = {
  'primary': ['haproxy.primary'],
  'balancer': ['haproxy.site'],
  'server': ['memcached', 'php', 'nginx', 'webapp'],
  'preproduction': ['memcached', 'php', 'nginx', 'webapp'],
  'database': ['database'],
  'store': ['store'],
} -%}
{%- set role = salt['webfarm_topology.node']().role %}
base:
  '*':
    - minion
{%- for state in states[role] %}
    - {{ state }}
{%- endfor %}
