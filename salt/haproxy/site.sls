{#- A site balancer: farms by maps, the fence, the floor. Values set at run time are never overwritten. -#}
{%- from 'haproxy/map.jinja' import paths with context %}
{%- set topology = salt['webfarm_topology.get']() %}
{%- set me = salt['webfarm_topology.node']() %}
{%- set site = topology.sites[me.site] %}
{%- set weights = {} %}
{%- for name, farm in site.farms.items() %}
  {%- do weights.update({name: farm.servers.values() | map(attribute='weight') | sum}) %}
{%- endfor %}
{%- macro at(host, port) %}{{ '[' ~ host ~ ']' if ':' in host else host }}:{{ port }}{% endmacro %}
{%- set siblings = [] %}
{%- for name, balancer in site.balancers.items() if name != me.id %}
  {%- do siblings.append(balancer.address) %}
{%- endfor %}
include:
  - haproxy

farm maps:
  haproxy_farm.maps:
    - weights: {{ weights | json }}
    - release: {{ topology.initial | json }}
    - siblings: [{% for address in siblings %}'{{ at(address, 80) }}'{{ ', ' if not loop.last }}{% endfor %}]
    - require:
      - file: haproxy folders

/etc/haproxy/haproxy.cfg:
  file.managed:
    - source: salt://haproxy/files/site.cfg.j2
    - template: jinja
    - check_cmd: /usr/sbin/haproxy -c -q -f
    - context:
        site: {{ me.site | json }}
        farms: {{ site.farms | json }}
        balancers: {{ site.balancers | length }}
        primaries: {{ topology.primary.balancers.values() | map(attribute='address') | list | json }}
        siblings: {{ siblings | json }}
        floor: {{ site.policy.floor }}
        bind: '{{ at(me.node.address, 80) }}'
        management: '{{ at(me.node.management, 8404) }}'
        socket: {{ paths.socket }}
        maps: {{ paths.maps }}
        state_file: {{ paths.state_file }}
    - require:
      - pkg: haproxy package
      - haproxy_farm: farm maps

haproxy:
  service.running:
    - enable: True
    - reload: True
    - watch:
      - file: /etc/haproxy/haproxy.cfg
    - require:
      - file: /usr/local/lib/webfarm/webfarm-haproxy
      - cmd: haproxy unit
