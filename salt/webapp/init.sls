# The release that a server without any begins with. A server that has an active version keeps it: which
# version runs is an upgrade's business and never a highstate's.
{%- set topology = salt['webfarm_topology.get']() %}
{%- set initial = topology.releases[topology.initial] %}
include:
  - php
  - nginx

webapp_tree:
  webapp.installed:
    - name: {{ initial.webapp | json }}
    - unless: test -e /srv/webfarm/webapp/current
    - require:
      - pkg: php_libraries

webapp_initialised:
  webapp.initialised:
    - name: {{ initial.webapp | json }}
    - require:
      - webapp: webapp_tree

php_initialised:
  php_version.initialised:
    - name: {{ initial.php | json }}
    - require:
      - sls: php
      - service: nginx_service
      - webapp: webapp_initialised

webfarm-php-fpm:
  service.running:
    - enable: true
    - reload: true
    - require:
      - php_version: php_initialised
    - watch:
      - file: /etc/webfarm/php-fpm.conf
      - file: /etc/webfarm/session.php
      - file: /usr/share/webfarm/php
