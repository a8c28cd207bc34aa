# What whoever is shown a token does: `jwt` of PyPI, with keys that were fetched before.
# Arguments: a JWKS, the token, its audience or nothing for a token without one. Prints its claims.

import json, sys
import jwt

keys = jwt.PyJWKSet.from_json(open(sys.argv[1]).read())
token, audience = sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None
header = jwt.get_unverified_header(token)
claims = jwt.decode(token, keys[header["kid"]], algorithms=["ES256"], audience=audience, options={"require": ["exp", "sub"]})
print(json.dumps({"header": header, "claims": claims}))
