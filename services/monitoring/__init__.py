"""What players are promised, as Prometheus' rules and Grafana's dashboards; rendered into deploy/."""
