{#- What both layers share: the package, the folders, the helper that starts and reloads without loss. -#}
{%- from 'haproxy/map.jinja' import paths with context %}
include:
  - folders

haproxy package:
  pkg.installed:
    - name: haproxy

haproxy folders:
  file.directory:
    - names:
      - {{ salt['file.dirname'](paths.state_file) }}
      - {{ paths.maps }}
    - mode: '0755'
    - makedirs: True
    - require:
      - file: webfarm_folders

/usr/local/lib/webfarm/webfarm-haproxy:
  file.managed:
    - source: salt://haproxy/files/webfarm-haproxy.py.j2
    - template: jinja
    - mode: '0755'
    - makedirs: True
    - context:
        python: {{ grains['pythonexecutable'] }}
        socket: {{ paths.socket }}
        state_file: {{ paths.state_file }}
        lock: {{ paths.lock }}

/etc/systemd/system/haproxy.service.d/webfarm.conf:
  file.managed:
    - source: salt://haproxy/files/webfarm.conf
    - makedirs: True

haproxy unit:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: /etc/systemd/system/haproxy.service.d/webfarm.conf
