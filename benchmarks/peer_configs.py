"""Pure: the proxies' configurations, each as near to the others as it goes.

HTTP/1.1 on both sides, one thread, server connections kept and shared by all clients, no
access log, bodies streamed and not buffered, no compression, no retry that differs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.workloads import HOSTS, Variant

CONNECTIONS: Final = 12_000
"""From clients at once: 10,000 idle ones and some."""
FIRST_WEIGHT: Final = 90


@dataclass(frozen=True, slots=True)
class Site:
    """Where a proxy runs."""

    directory: Path
    """Its own, on a tmpfs."""
    state: Path
    """Its own, on a disk: what must outlive the machine."""
    port: int
    blue: int
    """Port of the origin; proxies with one group of servers use it alone."""
    green: int
    variant: Variant
    root: Path
    """The checkout."""


_HAPROXY_FIELDS: Final = """\
 option forwardfor
 unique-id-format %{+X}o%ci:%cp_%Ts_%rt
 unique-id-header X-Request-Id
 http-request set-header X-Forwarded-Proto http
 http-request set-header X-Forwarded-Host %[req.hdr(host)]
 http-request add-header Via "1.1 haproxy"
 http-response add-header Via "1.1 haproxy"
 http-response set-header X-Request-Id %[unique-id]
"""
"""What a proxy in front of an application is mostly set to say, and Turnout says unasked."""


def haproxy(site: Site) -> str:
    if site.variant is Variant.SERVICES:
        backends = "\n".join(
            f"backend {host}-{suffix}\n server blue 127.0.0.1:{site.blue}"
            for host in service_hosts()
            for suffix in ("all", "b")
        )
        names = f"%[req.hdr(host),map({site.directory / 'hosts.map'})]"
        routes = f" use_backend {names}-b if {{ path_beg /b }}\n use_backend {names}-all\n"
    else:
        routes, backends = " default_backend origin\n", ""
    splice = " option splice-response\n" if site.variant is Variant.SPLICE else ""
    fields = _HAPROXY_FIELDS if site.variant is Variant.FIELDS else ""
    # `http-reuse always` is Turnout's rule: any idle connection serves any client. With the
    # default, a client connection's first request opens a server connection of its own.
    return f"""global
 nbthread 1
 no strict-limits
 maxconn {CONNECTIONS}
defaults
 mode http
 timeout connect 5s
 timeout client 300s
 timeout server 300s
 timeout tunnel 1h
 http-reuse always
frontend clients
 bind 127.0.0.1:{site.port} backlog 4096
{fields}{routes}backend origin
{splice} server blue 127.0.0.1:{site.blue}
{backends}
"""


def haproxy_map() -> str:
    """Host by host, the beginning of its backends' names."""
    return "".join(f"{host} {host}\n" for host in service_hosts())


def service_hosts() -> list[str]:
    return [f"h{number}.bench.example" for number in range(HOSTS)]


def nginx(site: Site) -> str:
    scratch = "\n".join(
        f" {name}_temp_path {site.directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
pid {site.directory}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 24000; }}
http {{
 access_log off;
 keepalive_requests 1000000000;
 keepalive_timeout 3600;
 client_max_body_size 0;
{scratch}
 map $http_upgrade $to_origin {{ default upgrade; "" ""; }}
 upstream origin {{
  server 127.0.0.1:{site.blue};
  keepalive 1200;
  keepalive_requests 1000000000;
 }}
 server {{
  listen 127.0.0.1:{site.port} backlog=4096;
  location / {{
   proxy_pass http://origin;
   proxy_http_version 1.1;
   proxy_set_header Host $host;
   proxy_set_header Connection $to_origin;
   proxy_set_header Upgrade $http_upgrade;
   proxy_buffering on;
   proxy_max_temp_file_size 0;
   proxy_request_buffering off;
   proxy_read_timeout 300s;
  }}
 }}
}}
"""


def envoy(site: Site) -> str:
    filters = [
        {
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
            },
        }
    ]
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network"
        ".http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP1",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": filters,
    }
    endpoint = {"address": {"socket_address": _socket(site.blue)}}
    many = {"max_connections": CONNECTIONS, "max_pending_requests": CONNECTIONS,
            "max_requests": CONNECTIONS}  # fmt: skip
    cluster = {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    listener = {
        "address": {"socket_address": _socket(site.port)},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def _socket(port: int) -> dict[str, Any]:
    return {"address": "127.0.0.1", "port_value": port}


def traefik(site: Site) -> str:
    """The static configuration; the routes are in a file beside it, `traefik_routes`."""
    return json.dumps(
        {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "log": {"level": "ERROR"},
            "entryPoints": {"clients": {"address": f"127.0.0.1:{site.port}"}},
            "providers": {"file": {"filename": str(site.directory / "routes.yml"), "watch": False}},
            "serversTransport": {"maxIdleConnsPerHost": 1200},
        }
    )


def traefik_routes(site: Site) -> str:
    server = {"url": f"http://127.0.0.1:{site.blue}"}
    return json.dumps(
        {
            "http": {
                "routers": {
                    "all": {
                        "rule": "PathPrefix(`/`)",
                        "service": "origin",
                        "entryPoints": ["clients"],
                    }
                },
                "services": {"origin": {"loadBalancer": {"servers": [server]}}},
            }
        }
    )


def caddy(site: Site) -> str:
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{site.blue}"}],
        "transport": {
            "protocol": "http",
            "compression": False,
            "versions": ["1.1"],
            "keep_alive": {"max_idle_conns": 1200, "max_idle_conns_per_host": 1200},
        },
    }
    server = {
        "listen": [f"127.0.0.1:{site.port}"],
        "routes": [{"handle": [proxy]}],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
    }
    return json.dumps(
        {
            "admin": {"disabled": True},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {"http": {"servers": {"bench": server}}},
        }
    )


def turnout(site: Site) -> str:
    """All features on; the access log off, but for the variant that measures it."""
    log = {"format": "json", "path": str(site.directory / "access.log")}
    return json.dumps(
        {
            "workers": 2 if site.variant is Variant.TWO_WORKERS else 1,
            "runtime_dir": str(site.directory / "run"),
            "listeners": [{"bind": f"127.0.0.1:{site.port}"}],
            "control": {"bind": f"unix:{site.directory}/control.sock"},
            "state": {"path": str(site.state / "turnout.db")},
            "log": {"access": log if site.variant is Variant.LOG else "off"},
            "limits": {"connections": CONNECTIONS},
            "services": dict(_services(site)),
        }
    )


def _services(site: Site) -> list[tuple[str, dict[str, Any]]]:
    upstreams = {
        "blue": {"servers": [f"127.0.0.1:{site.blue}"]},
        "green": {"servers": [f"127.0.0.1:{site.green}"]},
    }
    if site.variant is not Variant.SERVICES:
        return [("shop", {"upstreams": upstreams, "health": {"path": "/", "interval": "1s"}})]
    return [
        (
            f"shop-{number}-{suffix}",
            {
                "match": {"hosts": [host], "path_prefix": prefix},
                "upstreams": upstreams,
                # 2,000 servers to probe would be what is measured.
                "health": "off",
            },
        )
        for number, host in enumerate(service_hosts())
        for suffix, prefix in (("all", "/"), ("b", "/b"))
    ]
