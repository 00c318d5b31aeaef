# The folders that every role keeps its own files in.
webfarm_folders:
  file.directory:
    - names:
      - /etc/webfarm
      - /var/lib/webfarm
      - /run/webfarm
      - /srv/webfarm
    - user: root
    - group: root
    - mode: '0755'

# The newest rollout that this minion was shown: what keeps an older one from changing anything.
/var/lib/webfarm/holds:
  file.directory:
    - user: root
    - group: root
    - mode: '0700'
    - require:
      - file: webfarm_folders

# /run is empty after a boot.
/etc/tmpfiles.d/webfarm.conf:
  file.managed:
    - contents: d /run/webfarm 0755 root root -
    - mode: '0644'
