"""nginx in front of Flower: of its interfaces, sites reach the one for nodes, and its sign of life.

Flower's interface for submitting runs has no authentication of its own and shares the port, so it must not be
reachable: every path but two is 404. A server that fails for a moment, since its database is locked say,
answers 500, and on that Flower's nodes end their connections and heartbeats for good; on 503 they try again.
"""

from pathlib import Path

LARGEST_BODY = "8m"  # Flower sends objects of at most 5 MiB

CONFIG = """\
daemon off;
pid nginx.pid;
worker_processes 2;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server_tokens off;
  client_body_temp_path nginx-body;
  proxy_temp_path nginx-proxy;
  fastcgi_temp_path nginx-unused;
  uwsgi_temp_path nginx-unused;
  scgi_temp_path nginx-unused;
  limit_conn_zone $binary_remote_addr zone=sites:1m;
  server {{
    listen {port} ssl;
    ssl_certificate {home}/server.crt;
    ssl_certificate_key {home}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size {largest};
    client_body_buffer_size {largest};
    proxy_max_temp_file_size 0;
    client_header_timeout 10s;
    client_body_timeout 30s;
    send_timeout 60s;
    keepalive_timeout 75s;
    limit_conn sites 64;
    proxy_ssl_trusted_certificate {home}/ca.crt;
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_request_buffering on;
    proxy_read_timeout 120s;
    proxy_intercept_errors on;
    error_page 500 =503 @busy;
    location @busy {{ return 503; }}
    location /v1/fleet/ {{ proxy_pass https://127.0.0.1:{internal}; }}
    location = /health {{ proxy_pass https://127.0.0.1:{internal}; }}
    location / {{ return 404; }}
  }}
}}
"""


def nginx_config(home: Path, address: str, internal_port: int) -> str:
    """Return nginx's configuration.

    Args:
        home: The coordinator's folder, with its certificates.
        address: Host and port that sites connect to.
        internal_port: Port of Flower's server on this machine.
    """
    return CONFIG.format(
        home=home.resolve(),
        port=address.rpartition(":")[2],
        internal=internal_port,
        largest=LARGEST_BODY,
    )
