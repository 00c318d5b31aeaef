# The web server's front: static files, and everything else to php-fpm.
nginx:
  pkg.installed:
    - name: nginx-light

/etc/nginx/nginx.conf:
  file.managed:
    - source: salt://nginx/files/nginx.conf.jinja
    - template: jinja
    - mode: '0644'
    - check_cmd: nginx -t -q -c
    - require:
      - pkg: nginx

/etc/systemd/system/nginx.service.d/webfarm.conf:
  file.managed:
    - source: salt://folders/files/after-network.conf
    - makedirs: true

nginx_service:
  service.running:
    - name: nginx
    - enable: true
    - reload: true
    - require:
      - file: /etc/systemd/system/nginx.service.d/webfarm.conf
    - watch:
      - file: /etc/nginx/nginx.conf
