# The release store, read only, for the web servers and nobody else.
include:
  - folders

rsync:
  pkg.installed: []

webfarm_store_folders:
  file.directory:
    - names:
      - /srv/webfarm/store/php
      - /srv/webfarm/store/webapp
    - makedirs: true
    - user: root
    - group: root
    - mode: '0755'
    - require:
      - file: webfarm_folders

# Read anew at each connection, but for the address: no restart, which would cut transfers.
/etc/rsyncd.conf:
  file.managed:
    - source: salt://store/files/rsyncd.conf.jinja
    - template: jinja
    - mode: '0644'

/etc/systemd/system/rsync.service.d/webfarm.conf:
  file.managed:
    - source: salt://folders/files/after-network.conf
    - makedirs: true

store_service:
  service.running:
    - name: rsync
    - enable: true
    - require:
      - pkg: rsync
      - file: webfarm_store_folders
      - file: /etc/systemd/system/rsync.service.d/webfarm.conf
      - file: /etc/rsyncd.conf
