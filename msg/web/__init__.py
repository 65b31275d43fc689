"""The web page and the HTTP API: what the wire can answer, for a browser and for scrapers.

server    sockets, connections and their ends; each contained, none stops the broker
connection  one of them: HTTP/1.1 and WebSockets, read and written
guard     who may ask: Host, Origin, token, and the headers that keep a browser in bounds
app       routes to answers
api       the JSON API as a table: questions of the wire, and orders; `openapi` reads it too
answers   what answers look like, for the description
gateway   frames through a WebSocket, or one of them through a POST, into a real session
history   the last minutes of each queue's and topic's figures, for the plots
page/     one static page, without a build step or anything from outside
"""
