// usage: java client_java.java HOST GREET-PORT HTTP-PORT
//
// Reads the greeting, or the page, in each way that Java knows: a line for each.

import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

class Client {
	interface Way { String read() throws Exception; }

	static boolean failed;

	static void say(String name, Way way) {
		String result;
		try {
			result = way.read().strip();
		} catch (Exception e) {
			failed = true;
			Throwable cause = e;
			while (cause.getMessage() == null && cause.getCause() != null)
				cause = cause.getCause();
			result = cause.toString();
		}
		System.out.println(name + ": " + result);
	}

	static String all(InputStream in) throws IOException {
		return new String(in.readAllBytes(), StandardCharsets.UTF_8);
	}

	static String all(SocketChannel channel) throws IOException {
		ByteBuffer buf = ByteBuffer.allocate(4096);
		while (channel.read(buf) >= 0) { }
		return new String(buf.array(), 0, buf.position(), StandardCharsets.UTF_8);
	}

	public static void main(String[] args) throws Exception {
		InetSocketAddress greet = new InetSocketAddress(args[0], Integer.parseInt(args[1]));
		URI page = URI.create("http://" + args[0] + ":" + args[2] + "/");

		say("Socket", () -> {
			try (Socket s = new Socket(greet.getAddress(), greet.getPort())) {
				return all(s.getInputStream());
			}
		});
		say("Socket with timeout", () -> {
			try (Socket s = new Socket()) {
				s.connect(greet, 10_000);
				return all(s.getInputStream());
			}
		});
		say("SocketChannel", () -> {
			try (SocketChannel c = SocketChannel.open(greet)) {
				return all(c);
			}
		});
		say("SocketChannel and Selector", () -> {
			try (SocketChannel c = SocketChannel.open(); Selector selector = Selector.open()) {
				c.configureBlocking(false);
				if (!c.connect(greet)) {
					SelectionKey key = c.register(selector, SelectionKey.OP_CONNECT);
					if (selector.select(10_000) != 1)
						throw new IOException("nothing selected");
					c.finishConnect();
					key.cancel();
					selector.selectNow();
				}
				c.configureBlocking(true);
				return all(c);
			}
		});
		say("HttpURLConnection", () -> {
			HttpURLConnection c = (HttpURLConnection) page.toURL().openConnection();
			return all(c.getInputStream());
		});
		say("HttpClient", () -> HttpClient.newHttpClient()
			.send(HttpRequest.newBuilder(page).build(), HttpResponse.BodyHandlers.ofString()).body());
		System.exit(failed ? 1 : 0);
	}
}
