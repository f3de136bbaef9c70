{{/*
The sidecar, its volumes, and what an app's container gets: the one source of the admission policy, the Kyverno policy
and the Kustomize component. What differs from pod to pod comes in as .v; a string that begins with "cel:" is an
expression there, and leasehold-injector.cel writes the whole as CEL.
*/}}

{{- define "leasehold-injector.sidecar" -}}
name: leasehold
image: {{ .v.image | quote }}
imagePullPolicy: {{ .v.imagePullPolicy | quote }}
restartPolicy: Always
args: {{ toJson .v.args }}
env: {{ toJson .v.env }}
ports: {{ toJson .v.ports }}
# It may first wait for a former sidecar of this pod that still ends.
startupProbe: {{ toJson .v.startupProbe }}
readinessProbe: {{ toJson .v.readinessProbe }}
# No livenessProbe: it would end the sidecar beside a living app.
securityContext: {{ toJson .v.securityContext }}
resources: {{ toJson .v.resources }}
volumeMounts:
# The sidecar makes its directory in the volume, and the app mounts that: leasehold-injector.appMount.
- {name: leasehold, mountPath: /run}
- {name: leasehold-state, mountPath: /var/lib/leasehold}
- {name: leasehold-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "leasehold-injector.sidecarEnv" -}}
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
{{- end }}

{{- define "leasehold-injector.httpProbes" -}}
startupProbe: {httpGet: {path: /livez, port: leasehold}, periodSeconds: 1, failureThreshold: 60}
readinessProbe: {httpGet: {path: /readyz, port: leasehold}, periodSeconds: 5}
{{- end }}

{{- define "leasehold-injector.execProbes" -}}
startupProbe: {exec: {command: {{ toJson .startup }}}, periodSeconds: 1, failureThreshold: 60}
readinessProbe: {exec: {command: {{ toJson .ready }}}, periodSeconds: 5}
{{- end }}

{{/* Pod Security "restricted". The image's own user is 65532; any other that is not root does. */}}
{{- define "leasehold-injector.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "leasehold-injector.volumes" -}}
- name: leasehold
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: leasehold-state
  emptyDir: {sizeLimit: 16Mi}
- name: leasehold-token
  projected:
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/*
Of the volume, the directory that the sidecar makes in it: the root of a volume in memory is sticky and everybody's, and
there the kernel (fs.protected_regular) refuses flock(1) the sidecar's files.
*/}}
{{- define "leasehold-injector.appMount" -}}
{name: leasehold, mountPath: /run/leasehold, subPath: leasehold, readOnly: true}
{{- end }}
