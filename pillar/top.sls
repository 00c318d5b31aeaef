{#- `cluster` is the topology (README.md); `releases` may override its releases; a secret goes only to
    the minions that use it. `opts.id` is the name that the master has accepted a key for: grains are
    the minion's own word. -#}
{%- import_yaml 'cluster.sls' as cluster -%}
{%- set webfarm = cluster.webfarm -%}
{%- set secrets = [] -%}
{%- if opts.id in webfarm.primary.balancers -%}
  {%- do secrets.append('secrets.tls') -%}
{%- endif -%}
{%- for name, site in webfarm.sites.items() -%}
  {%- set needs = [site.database.minion] -%}
  {%- for farm in site.farms.values() -%}{%- do needs.extend(farm.servers) -%}{%- endfor -%}
  {%- if opts.id in needs -%}
    {%- do secrets.append('secrets.' ~ name) -%}
  {%- endif -%}
{%- endfor %}
base:
  '*':
    - ignore_missing: true
    - cluster
    - releases
{%- for secret in secrets %}
    - {{ secret }}
{%- endfor %}
