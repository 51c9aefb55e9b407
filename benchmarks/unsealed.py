from engine.secrets import Secrets
class UnsealedSecrets(Secrets):
    def seal_raw(self, topic, data, now_ms, class_="raw"): return data
    def open_raw(self, topic, token, class_="raw"): return token
