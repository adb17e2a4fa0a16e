// resolve_java NAME SERVER: looks a name up with the C library, and with Java's own DNS client, which sends datagrams itself.
import java.net.InetAddress;
import java.util.Hashtable;
import java.util.TreeSet;
import javax.naming.directory.InitialDirContext;

class Resolve {
	public static void main(String[] args) throws Exception {
		var found = new TreeSet<String>();
		for (InetAddress a : InetAddress.getAllByName(args[0]))
			found.add(a.getHostAddress());
		System.out.println("InetAddress " + found);
		var environment = new Hashtable<String, String>();
		environment.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
		environment.put("java.naming.provider.url", "dns://" + args[1]);
		var attributes = new InitialDirContext(environment).getAttributes(args[0], new String[] {"A", "AAAA", "TXT"});
		for (String type : new String[] {"A", "AAAA", "TXT"})
			System.out.println(attributes.get(type));
	}
}
