# The minion's own configuration. A minion that restarts itself would break the highstate that runs in
# it, so a unit of its own waits until the minion has no job left, then restarts it.
/etc/salt/minion.d:
  file.directory:
    - user: root
    - group: root
    - mode: '0755'

/etc/salt/minion.d/webfarm.conf:
  file.managed:
    - source: salt://minion/files/webfarm.conf.jinja
    - template: jinja
    - user: root
    - group: root
    - mode: '0640'
    - require:
      - file: /etc/salt/minion.d

/usr/local/lib/webfarm/restart-minion:
  file.managed:
    - source: salt://minion/files/restart-minion
    - makedirs: true
    - mode: '0755'

restart_minion:
  cmd.run:
    - name: >-
        systemctl is-active --quiet webfarm-minion-restart.service ||
        systemd-run --quiet --collect --unit=webfarm-minion-restart /usr/local/lib/webfarm/restart-minion
        {{ opts.cachedir }}/proc
    - onlyif: systemctl is-active --quiet salt-minion.service
    - onchanges:
      - file: /etc/salt/minion.d/webfarm.conf
    - require:
      - file: /usr/local/lib/webfarm/restart-minion
    - order: last
