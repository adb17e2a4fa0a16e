// usage: java family_java.java HOST PORT
//
// Says whom it is connected to, who it is, and what it reads.

import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;

class Family {
	public static void main(String[] args) throws Exception {
		int port = Integer.parseInt(args[1]);
		try (Socket s = new Socket(args[0], port)) {
			String text = new String(s.getInputStream().readAllBytes()).strip();
			System.out.println("Socket " + s.getInetAddress() + " " + s.getPort() + " " + s.getLocalAddress().getHostAddress() + " " + text);
		}
		try (SocketChannel c = SocketChannel.open(new InetSocketAddress(args[0], port))) {
			ByteBuffer buf = ByteBuffer.allocate(100);
			while (c.read(buf) >= 0) { }
			String own = ((InetSocketAddress) c.getLocalAddress()).getAddress().getHostAddress();
			System.out.println("SocketChannel " + c.getRemoteAddress() + " " + own + " " + new String(buf.array(), 0, buf.position()).strip());
		}
	}
}
