# This server's part of the farm's session cache.
memcached:
  pkg.installed: []

/etc/memcached.conf:
  file.managed:
    - source: salt://memcached/files/memcached.conf.jinja
    - template: jinja
    - mode: '0644'
    - require:
      - pkg: memcached

/etc/systemd/system/memcached.service.d/webfarm.conf:
  file.managed:
    - source: salt://folders/files/after-network.conf
    - makedirs: true

/usr/share/webfarm/memcached/retire.php:
  file.managed:
    - source: salt://memcached/files/retire.php
    - makedirs: true
    - mode: '0644'

/etc/systemd/system/memcached.service.d/retire.conf:
  file.managed:
    - source: salt://memcached/files/retire.conf.jinja
    - template: jinja
    - makedirs: true
    - mode: '0644'
    - require:
      - file: /usr/share/webfarm/memcached/retire.php

# No restart: it is for the next stop.
memcached_unit_known:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: /etc/systemd/system/memcached.service.d/retire.conf
    - require_in:
      - service: memcached_service

memcached_service:
  service.running:
    - name: memcached
    - enable: true
    - require:
      - file: /etc/systemd/system/memcached.service.d/webfarm.conf
    - watch:
      - pkg: memcached
      - file: /etc/memcached.conf
