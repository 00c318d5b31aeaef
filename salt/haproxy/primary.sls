{#- A primary balancer: TLS, sites by maps. Values set at run time are never overwritten. -#}
{%- from 'haproxy/map.jinja' import paths with context %}
{%- set topology = salt['webfarm_topology.get']() %}
{%- set me = salt['webfarm_topology.node']() %}
{%- set certificate = topology.primary.tls.certificate %}
{%- set secrets = pillar.get('webfarm_secrets', {}) %}
{%- set weights = {} %}
{%- for name, site in topology.sites.items() %}
  {%- do weights.update({name: site.weight}) %}
{%- endfor %}
{%- set public = me.node.public or me.node.address %}
{%- macro at(host, port) %}{{ '[' ~ host ~ ']' if ':' in host else host }}:{{ port }}{% endmacro %}
include:
  - haproxy

site maps:
  haproxy_farm.site_maps:
    - weights: {{ weights | json }}
    - require:
      - file: haproxy folders

{%- if secrets.get('tls_pem') %}

{{ certificate }}:
  file.managed:
    - contents: {{ secrets['tls_pem'] | json }}
    - mode: '0600'
    - makedirs: True
    - dir_mode: '0755'
    - show_changes: False
    - require_in:
      - file: /etc/haproxy/haproxy.cfg
    - watch_in:
      - service: haproxy
{%- endif %}

/etc/haproxy/haproxy.cfg:
  file.managed:
    - source: salt://haproxy/files/primary.cfg.j2
    - template: jinja
    - check_cmd: /usr/sbin/haproxy -c -q -f
    - context:
        sites: {{ topology.sites | json }}
        domain: {{ topology.primary.domain | json }}
        certificate: {{ certificate | json }}
        bind_http: '{{ at(public, 80) }}'
        bind_https: '{{ at(public, 443) }}'
        management: '{{ at(me.node.management, 8404) }}'
        socket: {{ paths.socket }}
        maps: {{ paths.maps }}
        state_file: {{ paths.state_file }}
    - require:
      - pkg: haproxy package
      - haproxy_farm: site maps

haproxy:
  service.running:
    - enable: True
    - reload: True
    - watch:
      - file: /etc/haproxy/haproxy.cfg
    - require:
      - file: /usr/local/lib/webfarm/webfarm-haproxy
      - cmd: haproxy unit
