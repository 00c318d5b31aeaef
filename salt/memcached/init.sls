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

memcached_service:
  service.running:
    - name: memcached
    - enable: true
    - require:
      - file: /etc/systemd/system/memcached.service.d/webfarm.conf
    - watch:
      - pkg: memcached
      - file: /etc/memcached.conf
