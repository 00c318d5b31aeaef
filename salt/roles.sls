{#- What a minion is comes from the topology in the pillar, by its id. This is not in the top file: a
    mistake in the pillar would be lost in the minion's log there; here the highstate reports it. -#}
{%- if 'webfarm_topology.node' not in salt -%}
{{ raise('the Webfarm modules are not on this minion: run saltutil.sync_all, or install saltext.webfarm') }}
{%- endif -%}
{%- set states = {
  'primary': ['haproxy.primary'],
  'balancer': ['haproxy.site'],
  'server': ['packages', 'memcached', 'php', 'nginx', 'webapp'],
  'preproduction': ['packages', 'memcached', 'php', 'nginx', 'webapp'],
  'database': ['database'],
  'store': ['store'],
} -%}
include:
{%- for state in states[salt['webfarm_topology.node']().role] %}
  - {{ state }}
{%- endfor %}
