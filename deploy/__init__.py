"""What puts the services on Kubernetes: the chart in helm/livevideo, and what is generated for it."""
