{{/* A PodMonitor of the Prometheus operator for the sidecars' metrics. */}}
{{- define "leasehold.podMonitor" -}}
{{- $v := include "leasehold.values" . | fromYaml -}}
{{- with $v.podMonitor }}
{{- if .enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: leasehold-{{ $.lease }}
  namespace: {{ $.ctx.Release.Namespace | quote }}
  labels:
    {{- merge (include "leasehold.labels" $ | fromYaml) (.labels | default dict) | toYaml | nindent 4 }}
spec:
  selector:
    matchLabels:
      {{- $.selectorLabels | default (printf "app.kubernetes.io/instance: %q" $.ctx.Release.Name) | nindent 6 }}
  podMetricsEndpoints:
    - port: leasehold
      path: /metrics
      {{- with .interval }}
      interval: {{ . }}
      {{- end }}
      {{- with .scrapeTimeout }}
      scrapeTimeout: {{ . }}
      {{- end }}
      {{- with .relabelings }}
      relabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .metricRelabelings }}
      metricRelabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}
